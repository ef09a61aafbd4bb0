"""What each token is: layouts, the notation for groups and flows, image tokens and their pixels."""

from .checks import check_layout as check_layout
from .groups import (
    HISTORY as HISTORY,
    SEGMENTS as SEGMENTS,
    Flow as Flow,
    Group as Group,
    grows_by_sinks as grows_by_sinks,
    parse_fixed_group as parse_fixed_group,
    parse_flow as parse_flow,
    parse_group as parse_group,
)
from .image_tokens import Box as Box, ImageSpan as ImageSpan, View as View
from .layout import TokenLayout as TokenLayout
from .segments import CODE as CODE, NAMES as NAMES, PAD as PAD
from .sight import Sight as Sight, Window as Window
