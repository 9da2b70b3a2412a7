"""Our own OpenAPI 3.1 document of the API and a readable page of it, both served by the gateway.

document   paths and operations; answers, schemas: their parts
page       the document as one self-contained HTML page; style: its looks
"""

from pushgate.openapi.document import document, encode
from pushgate.openapi.page import render

__all__ = ["document", "encode", "render"]
