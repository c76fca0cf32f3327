"""Pull a super weight and watch the model change: a local page. Needs `pip install 'superweights[app]'`."""

from superweights.explorer.states import Explorer, PassSummary, State

__all__ = ["Explorer", "PassSummary", "State"]
