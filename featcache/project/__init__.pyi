from .heads import (
    has_head as has_head,
    load_head as load_head,
    load_saved_head as load_saved_head,
    remove_heads as remove_heads,
    saved_heads as saved_heads,
)
from .project import Project as Project
from .settings import CONFIG_NAME as CONFIG_NAME, Settings as Settings, read_config as read_config
