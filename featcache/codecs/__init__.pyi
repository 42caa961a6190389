from .codec import (
    FLOATING as FLOATING,
    Codec as Codec,
    RowCodec as RowCodec,
    codecs as codecs,
    load_codec as load_codec,
)
from .pooling import MASK as MASK, POOLS as POOLS, Pool as Pool, pooled_spec as pooled_spec
