<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis styleCategories="AllStyleCategories" version="3.22.16-Białowieża">
 <pipe>
  <rasterrenderer alphaBand="-1" band="1" opacity="1" type="paletted">
   <colorPalette>
    <paletteEntry alpha="255" color="#0072b2" label="class" value="0" />
   </colorPalette>
  </rasterrenderer>
  <rasterresampler maxOversampling="2" />
 </pipe>
</qgis>
