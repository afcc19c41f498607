"""What product names say. The names are real ones, or follow ESA's and archives' conventions."""

from pathlib import Path

import pytest

from rs_lowconf.data.products import product_in
from rs_lowconf.errors import DataError

NEW = "S2B_MSIL2A_20230701T103629_N0509_R008_T32UPU_20230701T135112"
OLD = "S2B_MSIL2A_20210701T103629_N0300_R008_T32UPU_20210701T135112"


@pytest.mark.parametrize(
    ("name", "level", "offset"),
    [
        (NEW, "L2A", -1000),
        (f"{NEW}.SAFE", "L2A", -1000),
        (f"{NEW}_7.tif", "L2A", -1000),
        (OLD, "L2A", 0),
        (NEW.replace("L2A", "L1C").replace("0509", "0400"), "L1C", -1000),
        (OLD.replace("0300", "0301"), "L2A", 0),
        (NEW.replace("0509", "9999"), "L2A", None),
        (NEW.replace("_N0509", ""), "L2A", None),
        (NEW.lower(), "L2A", -1000),
        ("S2A_OPER_PRD_MSIL1C_PDMC_20150714T123646_R022_V20150704T102427", "L1C", None),
        ("S2A_OPER_MSI_L1C_TL_EPA__20160608T143402_A000163_T31UDQ_N02.04.tif", "L1C", 0),
        ("S2A_OPER_MSI_L2A_TL_VGS2_20220208T134613_A034634_T31UDQ_N04.00", "L2A", -1000),
        ("L2A_T32UPU_A032991_20230701T103937", "L2A", None),
        ("S2B_32UPU_20230701_0_L2A", "L2A", None),
        ("SENTINEL2B_20230701-103937-123_L2A_T32UPU_C_V3-1", "L2A", None),
        ("20221109_094507_SN30_40N_227050_2482590_S2L2A.tif", "L2A", None),
        ("2021-07-01-00_00_2021-07-01-23_59_Sentinel-2_L1C_B04_(Raw).tiff", "L1C", None),
        ("S2MSI2A.tif", "L2A", None),
    ],
)
def test_levels_and_baselines_are_read(name: str, level: str, offset: float | None) -> None:
    """The level and what the baseline means for digital numbers come from the name."""
    found = product_in(name)
    assert found is not None
    assert (found.level, found.dn_offset) == (level, offset)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Forest_1.tif",
        "AnnualCrop_2012.tif",
        "LC08_L2SP_193026_20210701_20210708_02_T1_SR.tif",
        "HLS.S30.T32UPU.2021182T103629.v2.0",
        "parts2a.tif",
        "S2B_20210716T105619.tif",
        "L2A_final.tif",
    ],
)
def test_other_names_say_nothing(name: str) -> None:
    """Names of other things, and words that only look similar, say nothing."""
    assert product_in(name) is None


def test_folders_say_it_too() -> None:
    """A band file of a SAFE folder has the baseline of the folder; loose words do not count."""
    inside = "GRANULE/L2A_T32UPU_A032991_20230701T103937/IMG_DATA/R10m/T32UPU_B02_10m.jp2"
    found = product_in(Path("/data") / f"{NEW}.SAFE" / inside)
    assert found is not None
    assert found.words == "L2A, baseline 05.09"
    assert product_in(Path("/home/Sentinel-2_L2A/tiles/Forest_1.tif")) is None


def test_contradictions_are_refused() -> None:
    """A file in the folder of another product is refused in one line."""
    with pytest.raises(DataError, match="contradict") as caught:
        product_in(Path(NEW) / f"{OLD}.tif")
    assert "N0509" in str(caught.value)
    assert "N0300" in str(caught.value)
    with pytest.raises(DataError, match="contradict"):
        product_in(f"{NEW}_S2L1C.tif")
