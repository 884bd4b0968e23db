"""Plan files: models, devices, precisions, backends and scenarios, combined; exported, measured and compared.

A plan goes on where it was stopped or killed: what is known of the same request is not asked again.
"""

from edgedeploy.plan.children import Children, Done, Stopped
from edgedeploy.plan.file import Plan, PlanFile, Row, checked, read_plan
from edgedeploy.plan.journal import Journal, alone
from edgedeploy.plan.run import MEASUREMENTS, STATE, RowResult, Runner, Settings, pending, run_plan

__all__ = [
    "MEASUREMENTS",
    "STATE",
    "Children",
    "Done",
    "Journal",
    "Plan",
    "PlanFile",
    "Row",
    "RowResult",
    "Runner",
    "Settings",
    "Stopped",
    "alone",
    "checked",
    "pending",
    "read_plan",
    "run_plan",
]
