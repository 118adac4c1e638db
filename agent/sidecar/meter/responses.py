"""Objects of OpenAI's ``/v1/responses``, streamed or whole → what they say. Pure."""

from typing import Any, ClassVar

from agent.core.requests import Usage
from agent.sidecar.meter.reading import Reading, count, disjoint

ENDS = ("response.completed", "response.incomplete", "response.failed")


class ResponsesReading(Reading):
    """Every event has a `type`; the last one holds the whole response."""

    __slots__ = ()
    done_ends: ClassVar[bool] = False

    def take(self, said: dict[str, Any]) -> tuple[int, bool]:
        """One event, or the whole response. Returns its tokens: a delta of any channel is taken for one."""
        kind = said.get("type")
        if isinstance(kind, str) and kind.endswith(".delta"):
            return int(bool(said.get("delta"))), False
        if kind == "response.output_item.added":
            item = said.get("item")
            return int(isinstance(item, dict) and bool(item.get("name"))), False  # the name of a tool is output
        response = said.get("response")
        if isinstance(response, dict):
            self._take_response(response)
        elif said.get("object") == "response":
            self._take_response(said)
        elif not self.take_common(said) and kind == "error":
            self.take_error({"code": said.get("code"), "message": said.get("message")})
        if kind in ENDS:
            self.ended = True
            if kind == "response.failed" and self.error is None:
                self.error = "response failed"
        return 0, False

    def _take_response(self, response: dict[str, Any]) -> None:
        self.take_common(response)
        if isinstance(usage := response.get("usage"), dict):
            self.reported = self.usage_of(usage)
        status = response.get("status")
        if status == "incomplete":
            details = response.get("incomplete_details")
            self.take_finish(details.get("reason") if isinstance(details, dict) else status)
        elif status in ("completed", "failed", "cancelled"):
            self.take_finish(status)
            if status == "failed" and self.error is None:
                self.error = "response failed"

    def usage_of(self, usage: dict[str, Any]) -> Usage | None:
        """Its input tokens include the cached ones, ours do not."""
        details = usage.get("input_tokens_details")
        cached = count(details.get("cached_tokens")) if isinstance(details, dict) else None
        return disjoint(count(usage.get("input_tokens")), cached, count(usage.get("output_tokens")))
