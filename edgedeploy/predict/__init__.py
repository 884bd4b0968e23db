"""What a graph will take on a device that is not at hand: an interval, from what was measured on devices that are.

`predict` is the front door; `edgedeploy.predict.observation` holds what it is fitted on. A prediction is never a
measurement: it has a type of its own, and every form of it says so.
"""

from edgedeploy.predict.observation import Calibration, Observation, Setting
from edgedeploy.predict.prediction import Prediction, predict

__all__ = ["Calibration", "Observation", "Prediction", "Setting", "predict"]
