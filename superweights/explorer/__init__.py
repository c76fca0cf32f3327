"""Pull a super weight and watch the model change: a local page. Needs `pip install 'superweights[app]'`."""

from superweights.explorer.states import Channel, Explorer, PassSummary, State

__all__ = ["Channel", "Explorer", "PassSummary", "State"]
