"""Settings of where the work runs."""

from typing import Any, Literal

from pydantic import Field, field_validator

from engine.settings import Name, Section


class ExecutionConfig(Section):
    """Where the work runs. May not change a single number."""

    pool: Literal["ray", "inprocess", "threads", "sites"] = Field(
        "ray", description="Ray actors, this process, threads of this process, or processes at sites that join"
    )
    hospitals_per_actor: Literal["auto"] | int = Field(
        "auto", description="1: an actor each; auto: few one each, many shared"
    )
    oracle: Literal["auto", "native", "torch", "stacked"] = Field(
        "auto", description="what computes gradients: compiled kernel, torch, or torch for all hospitals at once (GPU)"
    )
    address: str = Field("local", description="Ray: 'local' starts one here, 'auto' or host:port joins one")
    cpus: int | None = Field(None, ge=1, description="CPUs of a local Ray, or number of threads; null: all")
    deadline: float = Field(600.0, gt=0, description="seconds that one round may take before it counts as lost")
    placement: Literal["pack", "spread"] = Field(
        "pack", description="a trial's hospitals on one node of a cluster, or over all of them"
    )
    sites: dict[int, str] = Field(
        {}, description="hospital -> value of the node label 'site': its actor runs on such a node only; needs pool ray"
    )

    listen: Name = Field("127.0.0.1:7443", description="sites: HOST:PORT where hospitals join; port 0 takes a free one")
    certificates: Name | None = Field(
        None, description="sites: folder with the coordinator's certificate; null: ledger.keystore"
    )

    @field_validator("hospitals_per_actor")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if value != "auto" and value < 1:
            raise ValueError("must be 'auto' or a number of at least 1")
        return value
