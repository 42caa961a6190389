from .batches import Batches as Batches, SampleBatches as SampleBatches
from .buffer import ShardBuffer as ShardBuffer
from .decoding import (
    WORTH_SCALING as WORTH_SCALING,
    default_workers as default_workers,
    scaling_gain as scaling_gain,
)
from .derivable import lossy_recipe as lossy_recipe
from .derive import cached_source as cached_source
from .example import (
    EXAMPLE_FILE as EXAMPLE_FILE,
    Example as Example,
    check_example as check_example,
    example_of as example_of,
    stored_example as stored_example,
)
from .extract import (
    ExtractReport as ExtractReport,
    MissingTask as MissingTask,
    extract as extract,
    missing_tasks as missing_tasks,
)
from .fill import DEFAULT_SHARD_BYTES as DEFAULT_SHARD_BYTES
from .job import Destination as Destination, ExtractJob as ExtractJob
from .missing import refuse_changed as refuse_changed, report_if_complete as report_if_complete
from .numerics import PrefixRunner as PrefixRunner
from .request import (
    Request as Request,
    make_recipe as make_recipe,
    make_request as make_request,
    remembered_snapshot as remembered_snapshot,
    samples_of as samples_of,
    stored_from as stored_from,
    views_recipe as views_recipe,
)
from .slices import TaskSlice as TaskSlice
from .space import stored_row_bytes as stored_row_bytes
