"""Why a pass takes as long as it does: what each node costs, what it took, and what the device could do at most."""

from edgedeploy.roofline.causes import Cause, Subject, causes
from edgedeploy.roofline.join import Bound, NodeRoof, Roofline, join
from edgedeploy.roofline.roofs import Roofs, at_the_roof
from edgedeploy.roofline.why import Why, WhyOptions, why

__all__ = [
    "Bound",
    "Cause",
    "NodeRoof",
    "Roofline",
    "Roofs",
    "Subject",
    "Why",
    "WhyOptions",
    "at_the_roof",
    "causes",
    "join",
    "why",
]
