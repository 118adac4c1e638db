"""Objects of ``/generate`` of SGLang, TGI and MII, and of Triton's generate → what they say. Pure."""

from typing import Any, ClassVar

from agent.core.requests import Usage
from agent.sidecar.meter.reading import Reading, count, disjoint


class GenerateReading(Reading):
    """One path, several engines: SGLang's objects have `meta_info`, TGI's `token` or `generated_text`, MII's `text`."""

    __slots__ = ("_output", "_parts")

    def __init__(self) -> None:
        super().__init__()
        self._output = 0  # of all parts, so far
        self._parts: dict[int, Usage] = {}  # by prompt of a batch; each object repeats its prompt's counts so far

    def take_document(self, said: Any) -> bool:
        """One answer, or the list of a batch's."""
        if not isinstance(said, list):
            return super().take_document(said)
        for index, part in enumerate(said):
            if isinstance(part, dict):
                self._take_part(part, index)
        return True

    def take(self, said: dict[str, Any]) -> tuple[int, bool]:
        """One object. Returns its tokens: one that carries output is taken for one."""
        return self._take_part(said, count(said.get("index")) or 0), False

    def _take_part(self, said: dict[str, Any], index: int) -> int:
        self.take_common(said)
        if self.error and isinstance(said.get("error"), str) and isinstance(kind := said.get("error_type"), str):
            self.error = kind[:80] or self.error  # TGI: the message and its kind lie side by side
        meta = said.get("meta_info")
        if isinstance(meta, dict):
            return self._take_sglang(said, meta, index)
        token = said.get("token")
        if isinstance(said.get("generated_text"), str):
            self._take_generated(said, 0 if isinstance(token, dict) else index)
        if isinstance(token, dict):
            return 1
        text = said.get("text")
        return int(any(text) if isinstance(text, list) else bool(text))

    def _take_sglang(self, said: dict[str, Any], meta: dict[str, Any], index: int) -> int:
        self.take_finish(meta.get("finish_reason"))
        output = count(meta.get("completion_tokens"))
        found = disjoint(count(meta.get("prompt_tokens")), count(meta.get("cached_tokens")), output)
        before = self._parts.get(index)
        if found is not None:
            self._put(index, found)
        if output is not None:  # the text is empty while a character is not whole
            return int(output > ((before.output_tokens or 0) if before is not None else 0))
        return int(bool(said.get("text") or said.get("output_ids")))

    def _take_generated(self, said: dict[str, Any], index: int) -> None:
        self.ended = True
        details = said.get("details")
        if isinstance(details, dict):
            self.take_finish(details.get("finish_reason"))
            prompt, prefill = count(details.get("input_length")), details.get("prefill")
            if prompt is None and isinstance(prefill, list) and prefill:
                prompt = len(prefill)
            output = count(details.get("generated_tokens"))
        else:  # MII's gateway
            self.take_finish(said.get("finish_reason"))
            prompt, output = count(said.get("prompt_length")), count(said.get("generated_length"))
        found = disjoint(prompt, None, output)
        if found is not None:
            self._put(index, found)

    def _put(self, index: int, found: Usage) -> None:
        before = self._parts.get(index)
        self._output += (found.output_tokens or 0) - ((before.output_tokens or 0) if before is not None else 0)
        self._parts[index] = found
        self.reported = found if len(self._parts) == 1 else Usage(output_tokens=self._output, source="reported")

    def usage(self, counted: int | None) -> Usage:
        """What was reported, of a batch the sum; else the objects that were counted."""
        if len(self._parts) < 2:
            return super().usage(counted)
        parts = self._parts.values()
        return Usage(
            input_tokens=_sum([part.input_tokens for part in parts]),
            input_cached_tokens=_sum([part.input_cached_tokens for part in parts]),
            output_tokens=_sum([part.output_tokens for part in parts]),
            source="reported",
        )


class TritonReading(Reading):
    """Triton's keys are the model's outputs; `text_output` is that of the LLM back ends. No end mark, no usage."""

    __slots__ = ("_output", "_prompt", "_understood")
    done_ends: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.ended = True  # the end of the body is the end of the answer
        self._understood = False
        self._prompt: int | None = None
        self._output: int | None = None

    def take(self, said: dict[str, Any]) -> tuple[int, bool]:
        """One object. Returns its tokens: one with a text is taken for one."""
        self.take_common(said)
        if self.model is None and isinstance(model := said.get("model_name"), str):
            self.model = model
        self.take_finish(said.get("finish_reason"))
        # Counts are there when the client asked for them. Back ends differ in whether a stream's add up: not read.
        prompt = count(said.get("num_input_tokens"))
        self._prompt = self._prompt if prompt is None else prompt
        self._output = count(said.get("num_output_tokens"))
        text = said.get("text_output")
        self._understood = self._understood or text is not None
        return int(any(text) if isinstance(text, list) else bool(text)), False

    def usage(self, counted: int | None) -> Usage:
        """A document's reported counts; else the objects of a stream with text, if there was any `text_output`."""
        if counted is None:
            return disjoint(self._prompt, None, self._output) or Usage()
        if not self._understood:
            return Usage()
        return Usage(input_tokens=self._prompt, output_tokens=counted, source="counted")


def _sum(counts: list[int | None]) -> int | None:
    known = [value for value in counts if value is not None]
    return sum(known) if known else None
