"""GET /metrics: the server's numbers in Prometheus' format, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from sdforge.api.access_log import RequestCounts
from sdforge.api.context import ApiContext
from sdforge.engine.tally import BOUNDS

_MEMORY = ("own_bytes", "foreign_bytes", "total_bytes", "peak_bytes")


def router(context: ApiContext, requests: RequestCounts) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["status"])
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Numbers(context, requests))

    @routes.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Jobs, pictures, seconds by stage, memory and requests, for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes


class _Numbers(Collector):
    """Reads the engine's numbers."""

    def __init__(self, context: ApiContext, requests: RequestCounts) -> None:
        self._context = context
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        yield InfoMetricFamily("sdforge", "Version.", value={"version": self._context.version})
        yield from self._queue()
        yield from self._work()
        yield from self._memory()
        yield from self._http()

    def _queue(self) -> Iterator[Metric]:
        state = self._context.engine.queue_state()
        jobs = GaugeMetricFamily("sdforge_queue_jobs", "Jobs in the queue.", labels=["state"])
        for name in ("waiting", "running"):
            jobs.add_metric([name], state[name])
        yield jobs
        yield GaugeMetricFamily(
            "sdforge_queue_paused", "Whether waiting jobs are held back.", value=state["paused"]
        )

    def _work(self) -> Iterator[Metric]:
        tally = self._context.engine.tally
        jobs = CounterMetricFamily("sdforge_jobs", "Ended jobs.", labels=["kind", "status"])
        for labels, count in tally.jobs().items():
            jobs.add_metric(list(labels), count)
        yield jobs
        yield CounterMetricFamily("sdforge_pictures", "Pictures made.", value=tally.pictures())
        stages = HistogramMetricFamily(
            "sdforge_stage_seconds", "Time that jobs spent in each stage.", labels=["stage"]
        )
        for stage, spread in tally.stages().items():
            bounds = [*map(str, BOUNDS), "+Inf"]
            buckets = list(zip(bounds, accumulate(spread.counts), strict=True))
            stages.add_metric([stage], buckets, sum_value=spread.total)
        yield stages

    def _memory(self) -> Iterator[Metric]:
        import psutil

        memory = GaugeMetricFamily("sdforge_device_bytes", "Device memory.", labels=["what"])
        report = self._context.engine.memory_report()
        for name in _MEMORY:
            if isinstance(report.get(name), int):
                memory.add_metric([name.removesuffix("_bytes")], report[name])
        yield memory
        resident = psutil.Process().memory_info().rss
        yield GaugeMetricFamily("sdforge_resident_bytes", "Main memory in use.", value=resident)
        model = self._context.engine.model_state()
        yield GaugeMetricFamily(
            "sdforge_model_loaded", "Whether a checkpoint is loaded.",
            value=bool(model["title"] and not model["loading"]),
        )  # fmt: skip

    def _http(self) -> Iterator[Metric]:
        counts = CounterMetricFamily(
            "sdforge_http_requests", "Answered requests.", labels=["method", "route", "status"]
        )
        for (method, route, status), count in self._requests.counts().items():
            counts.add_metric([method, route, str(status)], count)
        yield counts
        seconds = CounterMetricFamily(
            "sdforge_http_seconds", "Seconds until answers began.", labels=["method", "route"]
        )
        for labels, spent in self._requests.seconds().items():
            seconds.add_metric(list(labels), spent)
        yield seconds
