"""Language models that reply to requests, in this process or behind an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from forethought.config.sources import PromptedConfig
from forethought.engine import Prompt, Sampling
from forethought.keys import Key
from forethought.llm import TRANSPORT, LanguageError
from forethought.llm.endpoint import Endpoint
from forethought.llm.replies import LENGTH, answer_of
from forethought.llm.replies import Reply as ServerReply
from forethought.models.model import Model, ModelPool
from forethought.records import StopReason, content_id

REQUEST = "@@REQUEST@@"
"""Stands for a text while the chat template is taken apart around it, so that no text ever passes through it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How replies are drawn."""

    max_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """A model in this process takes 1 only."""

    @property
    def identity(self) -> str:
        """What cache keys and names of judges hold of it; changing it would ask everything of old runs again."""
        return f"Style(max_tokens={self.max_tokens!r}, temperature={self.temperature!r}, top_p={self.top_p!r})"


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, or why there is none."""

    text: str | None
    reason: str = ""
    cut: bool = False
    """Whether the limit of tokens ended it: its last line may not be what was meant."""

    @property
    def answer(self) -> str | None:
        """What it says after the model's reasoning; ``None`` if there is no answer."""
        return None if self.text is None else answer_of(self.text)


class Generator(Protocol):
    """Replies to requests."""

    name: str
    identity: str
    """Hash of the model, and of the key: other draws are other verdicts."""

    def generate(self, requests: Sequence[str], repeats: int, config: GenerationConfig) -> list[list[Reply]]:
        """Return ``repeats`` replies to each request; a draw depends on the request and its number alone."""
        ...


class LocalGenerator:
    """A model in this process."""

    def __init__(self, model: Model, key: Key) -> None:
        self.model = model
        self.key = key
        self.name = model.name
        self.identity = content_id("local", model.identity, str(key))

    def generate(self, requests: Sequence[str], repeats: int, config: GenerationConfig) -> list[list[Reply]]:
        if config.top_p != 1.0:
            raise LanguageError(
                f"top_p = {config.top_p}: a model in this process draws without a nucleus. Set top_p = 1"
            )
        model, most = self.model, config.max_tokens
        head, tail = chat_frame(model)
        # Named by its text: a reply does not depend on where in a batch its request stands.
        prompts = [Prompt(id=content_id(text), token_ids=head + model.encode(text) + tail) for text in requests]
        fitting = [index for index, prompt in enumerate(prompts) if len(prompt.token_ids) <= model.context - most]
        sampling = Sampling(max_tokens=most, temperature=config.temperature, stop_ids=stop_ids(model))
        drawn = model.sampler.sample([prompts[index] for index in fitting], repeats, sampling, self.key)
        reason = f"the request and {most} tokens of reply exceed the context of {model.context} tokens"
        # Requests that do not fit keep the reason.
        replies = [[Reply(None, reason)] * repeats for _ in requests]
        for index, completions in zip(fitting, drawn, strict=True):
            replies[index] = [
                Reply(model.tokenizer.decode(c.token_ids, skip_special_tokens=True), cut=c.stop is StopReason.LENGTH)
                for c in completions
            ]
        return replies


class EndpointGenerator:
    """A model behind an endpoint."""

    def __init__(self, endpoint: Endpoint, key: Key) -> None:
        self.endpoint = endpoint
        self.key = key
        self.name = endpoint.config.model
        # What a server calls a model says nothing about another server's.
        self.identity = content_id("endpoint", endpoint.config.base_url, self.name, str(key))

    def generate(self, requests: Sequence[str], repeats: int, config: GenerationConfig) -> list[list[Reply]]:
        """Return ``repeats`` replies to each request; the server is told a seed for each reply that is drawn."""
        chats = [[{"role": "user", "content": request}] for request in requests for _ in range(repeats)]
        seeds = None
        if config.temperature > 0:  # servers take 32-bit seeds at least
            seeds = [self.key.integer(content_id(request), k) >> 32 for request in requests for k in range(repeats)]
        answers = self.endpoint.chat(
            chats, max_tokens=config.max_tokens, temperature=config.temperature, top_p=config.top_p, seeds=seeds
        )
        replies = [_from_server(answer, config.max_tokens) for answer in answers]
        return [replies[start : start + repeats] for start in range(0, len(replies), repeats)]


def _from_server(answer: ServerReply, max_tokens: int) -> Reply:
    if answer.error is not None:
        return Reply(None, TRANSPORT + answer.error)
    cut = answer.finish == LENGTH
    if answer_of(answer.text) is None or (answer.reasoned and not answer.text.strip()):
        return Reply(None, unfinished_reasoning(max_tokens if cut else None))
    return Reply(answer.text, cut=cut)


def unfinished_reasoning(max_tokens: int | None) -> str:
    """Return why a reply that ends inside the model's reasoning is none; ``max_tokens`` is the limit that cut it."""
    limit = "" if max_tokens is None else f" at max_tokens = {max_tokens}"
    return (
        f"the reply was cut{limit} while the model reasoned, and holds no answer: raise max_tokens of this judge or "
        "teacher, or take a model that does not reason"
    )


def make_generator(config: PromptedConfig, pool: ModelPool, key: Key) -> Generator:
    """Return the generator that ``config`` names; ``key`` names its random numbers."""
    if config.endpoint is not None:
        return EndpointGenerator(Endpoint(config.endpoint), key)
    return LocalGenerator(local_model(config, pool), key)


def local_model(config: PromptedConfig, pool: ModelPool) -> Model:
    """Return the model of ``config``, which runs in this process; its weights are loaded when it is asked."""
    if config.model is None:
        raise ValueError("a judge or teacher needs exactly one of `model` and `endpoint`")
    return pool.model(config.model)


def chat_frame(model: Model) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids before and after a request: the chat template's, or a plain ``Answer:`` for a base model."""
    if model.tokenizer.chat_template is None:
        return model.bos, model.encode("\n\nAnswer:")
    chat = _chat(model, [{"role": "user", "content": REQUEST}], add_generation_prompt=True)
    head, request, tail = chat.partition(REQUEST)
    if not request:
        raise LanguageError(f"{model.name}: its chat template drops the user's message, so it cannot be asked anything")
    return model.encode(head, markup=True), model.encode(tail, markup=True)


def stop_ids(model: Model) -> tuple[int, ...]:
    """Return the ids that end a reply: EOS, and the special token with which the chat template closes a turn."""
    tokenizer = model.tokenizer
    ids = {tokenizer.eos_token_id}
    if tokenizer.chat_template is not None:
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": REQUEST}]
        first = model.encode(_chat(model, messages).partition(REQUEST)[2].lstrip(), markup=True)[:1]
        # Only an added token: an ordinary one would end replies in the middle.
        ids |= {token for token in first if token in tokenizer.added_tokens_decoder}
    return tuple(sorted(ids - {None}))


def _chat(model: Model, messages: list[dict[str, str]], **options: bool) -> str:
    # Templates that know no thinking ignore the switch; Qwen3's would open with it where an answer is expected.
    text: str = model.tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, **options)
    return text
