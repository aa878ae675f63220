"""The manifest's JSON Schema, by which editors complete and check it: the models in other words.

It says what each value may be, and nothing of what one means beside others: they may be in another
file, which an editor doesn't see.
"""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from mountd.manifest.schema import ManifestTable


def manifest_schema() -> dict[str, Any]:
    """The schema of one file, in the dialect of draft 2020-12."""
    schema = ManifestTable.model_json_schema(schema_generator=_Generator)
    for table in schema["$defs"].values():
        del table["title"]  # the name of a class of ours
    schema["title"] = "mountd.toml"
    schema["description"] = "A manifest of mountd, or a drop-in: see mountd.toml(5)."
    return {"$schema": _Generator.schema_dialect, **schema}


class _Generator(GenerateJsonSchema):
    """pydantic's, without null, which TOML doesn't have, and without a title for each key."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if isinstance(schema.get("default"), bool | int | str):
            return super().default_schema(schema)
        return self.generate_inner(schema["schema"])

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        return {**super().dict_schema(schema), "additionalProperties": False}

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False
