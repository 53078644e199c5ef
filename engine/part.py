"""What a result is made of: frozen records of JSON values."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, Strict, model_serializer

Item = TypeVar("Item")
Many = Annotated[tuple[Item, ...], Strict(False)]  # JSON has lists


class Part(BaseModel):
    """A record of a result."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False, populate_by_name=True)

    def document(self) -> dict[str, Any]:
        """As it is written: plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    @model_serializer(mode="wrap")
    def _without_absent(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        absent = {name for name, field in fields.items() if field.default is None and getattr(self, name) is None}
        return {name: value for name, value in plain(self).items() if name not in absent}
