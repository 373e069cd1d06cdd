"""Configuration: one pydantic model per stage; TOML files, then dotted overrides; unknown keys are errors.

Hand-written configs are TOML, resolved ones are JSON (``config.json`` in a stage's folder).
"""

from forethought.config.base import ConfigError, Section
from forethought.config.judging import AuditConfig, JudgeConfig, RewriteConfig
from forethought.config.midtraining import TRAINING, MatchAuditConfig, MatchConfig, RLMTConfig, ThinkingEvaluateConfig
from forethought.config.reading import Config, build, dump, load
from forethought.config.reasoning import ReasoningConfig, reasoning_overrides
from forethought.config.sources import ChunkConfig, CorpusConfig, EndpointConfig, ModelConfig
from forethought.config.stages import (
    ImproveConfig,
    InterleaveConfig,
    LogConfig,
    PrimaryConfig,
    SFTConfig,
    TrainingConfig,
)

__all__ = [
    "TRAINING",
    "AuditConfig",
    "ChunkConfig",
    "Config",
    "ConfigError",
    "CorpusConfig",
    "EndpointConfig",
    "ImproveConfig",
    "InterleaveConfig",
    "JudgeConfig",
    "LogConfig",
    "MatchAuditConfig",
    "MatchConfig",
    "ModelConfig",
    "PrimaryConfig",
    "RLMTConfig",
    "ReasoningConfig",
    "RewriteConfig",
    "SFTConfig",
    "Section",
    "ThinkingEvaluateConfig",
    "TrainingConfig",
    "build",
    "dump",
    "load",
    "reasoning_overrides",
]
