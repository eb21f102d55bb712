"""Where weights are: components and bytes, nothing about pictures or model families.

Reading order: `budget.py`, `policy.py`, `interleave.py` and `plan.py` (decide, pure), `arena.py`
and `component.py` (host masters), `store.py` (who owns them), `units.py` (pieces that stream),
`device.py` and `simulated.py` (where copies go), `residency.py`, `ring.py` and `executor.py` (carry
plans out), `manager.py` (leases, books), `ladder.py` (when memory runs out all the same). Masters
on the host never change, so taking a component off the device copies nothing back. Before a run
`estimate.py` says what it takes and `advice.py` which mode suits the machine; `calibration.py`
learns from what was measured, `monitor.py` keeps the history.
"""
