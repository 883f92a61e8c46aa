"""The catalog of tasks."""

from train.tasks.base import AbstractTask as AbstractTask
from train.tasks.base import Windows as Windows
from train.tasks.images import Images as Images
from train.tasks.images import ImagesConfig as ImagesConfig
from train.tasks.text import Text as Text
from train.tasks.text import TextConfig as TextConfig

TaskConfig = TextConfig | ImagesConfig
