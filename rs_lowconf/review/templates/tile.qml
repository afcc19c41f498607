<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis styleCategories="AllStyleCategories" version="3.22.16-Białowieża">
 <pipe>
  <rasterrenderer alphaBand="-1" blueBand="3" greenBand="2" opacity="1" redBand="1" type="multibandcolor">
   <redContrastEnhancement>
    <minValue>0</minValue>
    <maxValue>3000</maxValue>
    <algorithm>StretchToMinimumMaximum</algorithm>
   </redContrastEnhancement>
   <greenContrastEnhancement>
    <minValue>0</minValue>
    <maxValue>3000</maxValue>
    <algorithm>StretchToMinimumMaximum</algorithm>
   </greenContrastEnhancement>
   <blueContrastEnhancement>
    <minValue>0</minValue>
    <maxValue>3000</maxValue>
    <algorithm>StretchToMinimumMaximum</algorithm>
   </blueContrastEnhancement>
  </rasterrenderer>
  <rasterresampler maxOversampling="2" />
 </pipe>
</qgis>
