"""Handlers: what a worker runs for a type of job, and how payloads become arguments and back."""

import copy
import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, ParamSpec, TypeVar

import msgspec

from quorra_worker_sdk import codec
from quorra_worker_sdk.errors import BadHandler

P = ParamSpec("P")
R = TypeVar("R")
ExecutorName = Literal["async", "thread", "process"]


@dataclass(frozen=True, slots=True)
class Retry:
    """How failures of a handler are treated.

    Attributes:
        max_retries: Runs after the first one; None leaves it to the server (3).
        backoff: `exponential`, `linear` or `fixed`; None leaves it to the queue.
        base_seconds: Where the back-off begins.
        max_seconds: No delay is longer.
        jitter: Share of the delay that is random, 0 to 1.
        give_up_on: Errors that no further run can mend: the job is dead at once.

    Raises:
        TypeError: `give_up_on` holds something else than classes of errors.
    """

    max_retries: int | None = None
    backoff: Literal["exponential", "linear", "fixed"] | None = None
    base_seconds: float = 2.0
    max_seconds: float = 3600.0
    jitter: float = 0.0
    give_up_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        # A list, or one class alone, would do in an annotation only: `isinstance` takes neither as it is.
        kinds = tuple(self.give_up_on) if isinstance(self.give_up_on, Iterable) else (self.give_up_on,)
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"give_up_on holds {kind!r}; name classes of errors, such as (ValueError,)")
        object.__setattr__(self, "give_up_on", kinds)


class BadPayload(Exception):
    """A payload does not fit its handler; retrying cannot help."""


class Binding:
    """How a payload becomes arguments: fixed when the handler is registered, so that a job costs one decode."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Read the signature.

        Raises:
            BadHandler: It cannot be called with a JSON object.
        """
        if not inspect.isroutine(function):
            raise BadHandler(f"{function!r} is no function; give a function, or a method of an object.")
        hints = _hints(function)
        parameters = list(inspect.signature(function).parameters.values())
        self.takes_context = bool(parameters) and _is_context(parameters[0], hints)
        if self.takes_context:
            parameters = parameters[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
                raise BadHandler(f"{function.__qualname__}: payload keys are names, so {parameter} cannot be filled.")
        self._signature = inspect.Signature(parameters)
        self._lone_name: str | None = None
        self._decode: Callable[[bytes], Any]
        lone = hints.get(parameters[0].name) if len(parameters) == 1 else None
        if lone is not None and _is_struct(lone):
            self._lone_name = parameters[0].name
            self._decode = codec.decoder(lone)
        else:
            self._decode = _decoder(function, parameters, hints)
        self.return_type = hints.get("return", Any)

    def arguments(self, payload: bytes) -> dict[str, Any]:
        """Return the keyword arguments for a payload.

        Raises:
            BadPayload: It does not fit; the message names the field.
        """
        try:
            decoded = self._decode(payload)
        except ValueError as error:
            raise BadPayload(f"the payload does not fit the handler: {error}") from error
        if self._lone_name is not None:
            return {self._lone_name: decoded}
        return decoded if isinstance(decoded, dict) else msgspec.structs.asdict(decoded)

    def payload(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the payload for arguments.

        Raises:
            TypeError: The arguments do not fit the handler, or cannot be written as JSON.
        """
        bound = self._signature.bind(*args, **kwargs)
        if self._lone_name is not None:
            return codec.encode(bound.arguments[self._lone_name])
        values = dict(bound.arguments)
        for parameter in self._signature.parameters.values():
            if parameter.kind == parameter.VAR_KEYWORD:
                values.update(values.pop(parameter.name, {}))
        return codec.encode(values)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError) as error:
        raise BadHandler(f"{function.__qualname__}: its annotations cannot be read: {error}") from error


def _is_context(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> bool:
    from quorra_worker_sdk.context import Context

    annotation = hints.get(parameter.name)
    return annotation is Context or typing.get_origin(annotation) is Context


def _is_struct(kind: Any) -> bool:
    if not isinstance(kind, type):
        return False
    return (
        issubclass(kind, msgspec.Struct)
        or dataclasses.is_dataclass(kind)
        or typing.is_typeddict(kind)
        or codec.is_pydantic(kind)
    )


def _decoder(
    function: Callable[..., Any], parameters: list[inspect.Parameter], hints: Mapping[str, Any]
) -> Callable[[bytes], Any]:
    """Return a decoder into a struct with a field for each parameter."""
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return codec.decoder(dict[str, Any])
    fields: list[Any] = []
    for parameter in parameters:
        kind = hints.get(parameter.name, Any)
        if parameter.default is parameter.empty:
            fields.append((parameter.name, kind))
        else:
            fields.append((parameter.name, kind, _default(parameter.default)))
    try:
        struct = msgspec.defstruct(f"{function.__name__}_payload", fields, kw_only=True, forbid_unknown_fields=True)
        return codec.decoder(struct)
    except TypeError as error:
        raise BadHandler(f"{function.__qualname__}: its parameters cannot be read from JSON: {error}") from error


def _default(value: Any) -> Any:
    # A mutable default is made anew for each job, as a default factory.
    return (
        msgspec.field(default_factory=lambda: copy.deepcopy(value)) if isinstance(value, (list, dict, set)) else value
    )


@dataclass(frozen=True, slots=True)
class Handler(Generic[P, R]):
    """A function with the type of job that it handles and how it is run.

    Attributes:
        timeout: Longest run; None means no limit.
    """

    type: str
    function: Callable[..., Any]
    queue: str
    binding: Binding
    executor: ExecutorName
    timeout: timedelta | None
    retry: Retry

    def call(self, context: Any, arguments: dict[str, Any]) -> Any:
        """Call the function for a payload's arguments, with the context if it takes one."""
        if self.binding.takes_context:
            return self.function(context, **arguments)
        return self.function(**arguments)


def executor_for(function: Callable[..., Any], wished: ExecutorName | None, binding: Binding) -> ExecutorName:
    """Return where a function runs: coroutines on the loop, others in a thread, unless wished otherwise.

    Raises:
        BadHandler: The wish does not fit the function.
    """
    is_async = inspect.iscoroutinefunction(function)
    if wished is None:
        return "async" if is_async else "thread"
    if (wished == "async") != is_async:
        raise BadHandler(
            f"{function.__qualname__}: executor={wished!r} does not fit; leave it out, or make it "
            f"{'an async' if wished == 'async' else 'a plain'} function."
        )
    if wished == "process":
        _check_for_process(function, binding)
    return wished


def _check_for_process(function: Callable[..., Any], binding: Binding) -> None:
    if binding.takes_context:
        raise BadHandler(
            f"{function.__qualname__}: a handler in another process gets no context; take only the payload."
        )
    if function.__qualname__ != function.__name__:
        raise BadHandler(
            f"{function.__qualname__}: another process finds a handler by its name in its module; make it a function "
            "of the module."
        )
