"""What changes a forward pass. One edit a file."""

from .ablate import Ablate as Ablate
from .fn import Fn as Fn
from .knockout import Knockout as Knockout
from .var import VAR as VAR
