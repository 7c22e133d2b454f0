"""Who takes part."""

__all__ = ["CONTENDERS", "PACKAGES"]

from collections.abc import Mapping

from benchmarks.supervisors.captchad_daemon import CaptchadDaemon
from benchmarks.supervisors.contender import Contender
from benchmarks.supervisors.peers import Circus, Cotyledon, Gunicorn, Supervisord

CONTENDERS: Mapping[str, type[Contender]] = {
    each.title: each for each in (CaptchadDaemon, Supervisord, Circus, Gunicorn, Cotyledon)
}

#: Python package -> module, of those that are no part of captchad.
PACKAGES = {each.package: each.package for each in CONTENDERS.values() if each.package is not None}
