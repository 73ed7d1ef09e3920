def document(dialect: str) -> dict[str, object]:
    return {}
