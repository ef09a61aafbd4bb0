"""`LMM`: load a model, encode, run, generate and compress, locally or on a server."""

from .batch_runs import run_dataset as run_dataset
from .compressed_context import Context as Context
from .compression import SCORES as SCORES, CompressedContext as CompressedContext
from .encoding import Encoding as Encoding
from .experiment_runs import run_experiment as run_experiment
from .fingerprint import fingerprint as fingerprint
from .graph_key import graph_key as graph_key
from .images import ImageInput as ImageInput, as_image as as_image, digest as digest
from .lmm import LMM as LMM
from .marking import mark as mark
from .progress import Tick as Tick
from .run_store import RunStore as RunStore
from .session import Job as Job, Session as Session
from .shards import merge_shards as merge_shards
from .unembedding import Readout as Readout, readout as readout, token_id as token_id
from .video import Video as Video
