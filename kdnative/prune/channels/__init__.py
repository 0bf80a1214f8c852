"""Channel pruning of networks of convolutions."""

from kdnative.prune.channels.pruning import prune_channels_
from kdnative.prune.channels.report import ChannelReport, ChannelRow

__all__ = ["ChannelReport", "ChannelRow", "prune_channels_"]
