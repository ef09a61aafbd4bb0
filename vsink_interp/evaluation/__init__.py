"""Does an intervention help? Benchmarks off and on over the same questions, every rule named."""

from .chair import Chair as Chair
from .choice import CvBench as CvBench, Mmvp as Mmvp
from .evaluate import TASKS as TASKS, evaluate as evaluate, load_tasks as load_tasks
from .graphs import RECIPES as RECIPES, named_graph as named_graph
from .mme import Mme as Mme
from .mmhal import MmHal as MmHal
from .pope import Pope as Pope
from .results import (
    OFF as OFF,
    Evaluation as Evaluation,
    Row as Row,
    TaskAnswers as TaskAnswers,
)
from .task import Metric as Metric, Question as Question, Task as Task
from .vqa import Vqa as Vqa
