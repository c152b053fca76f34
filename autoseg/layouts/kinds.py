"""What a channel's name says about the numbers in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from autoseg.records import Kind

# the first kind whose words meet the words of the name; 'R_t1' is a colour of a date, hence rgb before mr
WORDS: dict[Kind, str] = {
    "categorical": "landcover|worldcover|land_cover|class|classes|category|categorical|qa|scl|cdl|flow_direction|fdir",
    "us": "us|ultrasound|bmode|echo|echocardiography|sonography",
    "pet": "pet|fdg|suv",
    "ct": "ct|cta|cect|ncct|ldct",
    "db": "vv|vh|hh|hv|db|sar|sigma0|gamma0|backscatter",
    "reflectance": (
        r"b0?[1-9]a?|b1[0-2]|nir\d*|swir\d*|rededge\d*|red_edge\d*|coastal|aerosol|cirrus|n|ir|reflectance"
    ),
    "rgb": "r|g|b|red|green|blue|rgb",
    "mr": (r"\w*mri|mr|t1\w*|t2\w*|flair|adc|dwi|swi|pd|pdw|cine|lge|dce|asl|tof|mra|bssfp|mprage|trufi"),
    "angle": "angle|aspect|azimuth|bearing|heading|direction|orientation|phase",
}


def kinds_of(names: Sequence[str]) -> list[Kind]:
    """The kind of every channel of an image. Colours beside other spectral bands are reflectance."""
    kinds = [kind_of(name) for name in names]
    if "reflectance" in kinds:
        return ["reflectance" if kind == "rgb" else kind for kind in kinds]
    return kinds


def kind_of(name: str) -> Kind:
    """The kind of a channel that stands alone: 'T1gd' is mr, 'VV' is db, 'elevation' is other."""
    low = name.lower()
    words = {*re.split(r"[^a-z0-9]+", low), *re.split(r"[^a-z0-9_]+", low), low.replace("-", "_")}
    for kind, pattern in WORDS.items():
        if any(re.fullmatch(pattern, word) for word in words if word):
            return kind
    return "other"
