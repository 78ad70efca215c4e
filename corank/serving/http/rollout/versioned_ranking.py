"""A request ranked by the version that its user gets."""

from dataclasses import dataclass

from corank.core.errors import RequestError
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.query.query_ahead import QueryAhead
from corank.serving.funnel.ranking_result import RankingResult
from corank.serving.funnel.request import Request
from corank.serving.http.rollout.rollout import CanaryAssignment, Rollout
from corank.serving.http.rollout.version_metrics import VersionMetrics
from corank.serving.http.transport.schemas import check_quotas
from corank.serving.role import CANARY, LIVE, Role


@dataclass(frozen=True)
class RankedRequest:
    """A result, and the version that it is of."""

    role: Role
    funnel: Funnel
    result: RankingResult


class VersionedRanking:
    """Ranks by the live version, and for the canary's users by the canary. If that fails, the live version answers."""

    def __init__(self, rollout: Rollout, metrics: VersionMetrics) -> None:
        """
        Args:
            rollout: holds the versions other than the live one.
            metrics: counts what the canary cannot rank.
        """
        self._rollout, self._metrics = rollout, metrics

    def rank(
        self, request: Request, arrived: float, live: Funnel, ahead: QueryAhead | None = None
    ) -> RankedRequest:
        """Rank a request.

        Args:
            request: of a user, by whom it is assigned.
            arrived: when, by `time.perf_counter`.
            live: the funnel of the live version.
            ahead: the query, if one of the funnels has encoded it already.

        Raises what the live version raises.
        """
        assigned, why = self._rollout.assign(request), ""
        if assigned is not None:
            ranked, why = self._try_canary(assigned, request, arrived)
            if ranked is not None:
                return ranked
        try:
            check_quotas(request, live.manifest)
            result = live.run(request, arrived, ahead)
        except Exception:
            if assigned is not None and why == "refused":
                self._rollout.record(assigned, True)  # not the canary is at fault
            raise
        if assigned is not None:
            self._metrics.count_error(CANARY, assigned.funnel.manifest.model_version, why)
            if why == "refused":
                self._rollout.record(assigned, False)
        return RankedRequest(LIVE, live, result)

    def _try_canary(
        self, assigned: CanaryAssignment, request: Request, arrived: float
    ) -> tuple[RankedRequest | None, str]:
        """Rank by the canary; if it cannot, None, and whether it `refused` the request or `failed`."""
        try:
            check_quotas(request, assigned.funnel.manifest)
            result = assigned.funnel.run(request, arrived)
        except RequestError:
            return None, "refused"
        except Exception:
            # a broken graph or a plug-in's stage may raise anything, and the live version answers
            self._rollout.record(assigned, False)
            return None, "failed"
        self._rollout.record(assigned, True)
        return RankedRequest(CANARY, assigned.funnel, result), ""
