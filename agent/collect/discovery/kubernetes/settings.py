"""The part `kubernetes` of section `engines` of the configuration in, checked values out."""

from typing import Literal

from pydantic import Field

from agent.settings import Section


class KubernetesSettings(Section):
    """Whether the API server is asked for the pods of this node: they give engines their names, addresses and roles."""

    enabled: Literal["auto", True, False] = Field(
        "auto",
        description="Ask the API server for the pods of this node. auto does so where the agent runs in a pod that has "
        "a ServiceAccount token. The ServiceAccount needs the verbs get and list on pods.",
    )
    node_name: str | None = Field(
        None,
        min_length=1,
        description="Name of this node in Kubernetes. Default: the environment variable NODE_NAME, which the pod takes "
        "from its field spec.nodeName.",
    )
