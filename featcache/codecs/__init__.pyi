from .codec import (
    FLOATING as FLOATING,
    Codec as Codec,
    RowCodec as RowCodec,
    codecs as codecs,
    load_codec as load_codec,
)
from .pooling import MASK as MASK, Pool as Pool, pooled_spec as pooled_spec
from .stored import (
    NUMERICS as NUMERICS,
    POOLS as POOLS,
    Stored as Stored,
    StoredOptions as StoredOptions,
    takes_stored as takes_stored,
)
