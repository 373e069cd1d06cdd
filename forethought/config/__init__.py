"""Configuration: one pydantic model per stage; TOML files, then dotted overrides; unknown keys are errors.

Hand-written configs are TOML, resolved ones are JSON (``config.json`` beside a stage's results).
"""

from forethought.config.base import ConfigError, Positive, Section, Share
from forethought.config.judging import AuditConfig, JudgeConfig, RewriteConfig
from forethought.config.midtraining import MatchConfig, RLMTConfig, ThinkingEvaluateConfig
from forethought.config.reading import Config, build, dump, load
from forethought.config.reasoning import ReasoningConfig, reasoning_overrides
from forethought.config.sources import ChunkConfig, CorpusConfig, EndpointConfig, EngineConfig, ModelConfig
from forethought.config.stages import (
    EvaluateConfig,
    ImproveConfig,
    InterleaveConfig,
    LogConfig,
    SFTConfig,
    TeacherConfig,
    ThoughtEvaluateConfig,
    TrainingConfig,
)

__all__ = [
    "AuditConfig",
    "ChunkConfig",
    "Config",
    "ConfigError",
    "CorpusConfig",
    "EndpointConfig",
    "EngineConfig",
    "EvaluateConfig",
    "ImproveConfig",
    "InterleaveConfig",
    "JudgeConfig",
    "LogConfig",
    "MatchConfig",
    "ModelConfig",
    "Positive",
    "RLMTConfig",
    "ReasoningConfig",
    "RewriteConfig",
    "SFTConfig",
    "Section",
    "Share",
    "TeacherConfig",
    "ThinkingEvaluateConfig",
    "ThoughtEvaluateConfig",
    "TrainingConfig",
    "build",
    "dump",
    "load",
    "reasoning_overrides",
]
