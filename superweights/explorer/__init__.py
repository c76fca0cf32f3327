"""Pull a super weight and watch the model change: a local page. Needs `pip install 'superweights[app]'`."""

from superweights.explorer.states import Explorer, Reading, State

__all__ = ["Explorer", "Reading", "State"]
