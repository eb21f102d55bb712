"""Where weights are: components and bytes, nothing about pictures or model families.

Reading order: `budget.py` (integer arithmetic), `plan.py` (decides, pure), `arena.py` and
`component.py` (host masters), `device.py` and `simulated.py` (where copies go), `manager.py`
(leases; carries plans out). Masters on the host never change, so taking a component off the device
copies nothing back.
"""
