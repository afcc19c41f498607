<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis styleCategories="AllStyleCategories" version="3.22.16-Białowieża">
 <pipe>
  <rasterrenderer alphaBand="-1" gradient="BlackToWhite" grayBand="1" opacity="1" type="singlebandgray">
   <contrastEnhancement>
    <minValue>0</minValue>
    <maxValue>1</maxValue>
    <algorithm>StretchToMinimumMaximum</algorithm>
   </contrastEnhancement>
  </rasterrenderer>
  <rasterresampler maxOversampling="2" />
 </pipe>
</qgis>
