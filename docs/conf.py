"""Sphinx's configuration: make docs"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.metadata import version as installed_version
from pathlib import Path
from urllib.parse import urlsplit

from docutils import nodes
from docutils.utils import get_source_line
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

import acebase_ipc
import acebase_ipc.testing

DOCS = Path(__file__).resolve().parent

INCLUDED = {
    DOCS.parent / "README.rst": "readme",
    DOCS.parent / "SECURITY.rst": "security",
    DOCS.parent / "CHANGELOG.rst": "changelog",
}
"""The pages that include a document from beside this directory."""

project = "acebase-ipc"
version = release = installed_version("acebase-ipc")
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosectionlabel"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"acebase-ipc {release}"
html_show_copyright = False
html_copy_source = False

highlight_language = "text"  # of blocks that name no language

# "make linkcheck" needs the network. Loopback addresses are examples.
linkcheck_ignore = [r"https?://(127\.0\.0\.1|localhost)"]

autosectionlabel_prefix_document = True

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"IResource": "twisted.web.resource.IResource"}  # else its repr is shown
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"

# Every reference has to lead somewhere. Those into other packages cannot: to look
# them up would need the network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", rf"({'|'.join(sys.stdlib_module_names)}|twisted|zope)(\..*)?"),
    # As constructors' annotations name them.
    ("py:class", "I[A-Z][A-Za-z]+|Deferred|InheritedSockets|PathLike|TrustRoot"),
]


class LocalLinks(SphinxTransform):
    """Lets links between files of the repository lead to their pages.

    The documents are read without Sphinx, too, so they link to files. Of other files
    than documents the page has a copy to download; a directory is shown by its name.
    """

    default_priority = 5  # first of all: Sphinx takes what remains for links to the outside

    def apply(self, **kwargs: object) -> None:
        """Replace all links that have no scheme, and find pictures beside included documents."""
        for picture in self.document.findall(nodes.image):
            source, _ = get_source_line(picture)
            path = os.path.abspath(os.path.join(str(source), "..", picture["uri"]))
            picture["uri"] = f"/{os.path.relpath(path, DOCS)}"
        for link in list(self.document.findall(nodes.reference)):
            address = urlsplit(link.get("refuri", ""))
            if address.path and not address.scheme:
                source, _ = get_source_line(link)
                target = Path(os.path.abspath(os.path.join(str(source), "..", address.path)))
                link.replace_self(self._local(target, link.astext()))

    def _local(self, target: Path, text: str) -> nodes.Element:
        page = INCLUDED.get(target)
        if page is None and target.parent == DOCS and target.suffix == ".rst":
            page = target.stem
        if page is not None:
            return addnodes.pending_xref(
                "",
                nodes.inline(text, text),
                refdoc=self.env.docname,
                refdomain="std",
                refexplicit=not text.endswith(".rst"),  # else the title is shown
                reftarget=f"/{page}",
                reftype="doc",
                refwarn=True,
            )
        if target.is_dir():
            return nodes.literal(text, text)
        return addnodes.download_reference(
            "",
            text,
            refdoc=self.env.docname,
            refdomain="",
            refexplicit=True,
            reftarget=f"/{os.path.relpath(target, DOCS)}",
            reftype="download",
            refwarn=True,
        )


def full_names(target: str, documented: str) -> Iterator[str]:
    """What *target* may mean in the docstring of *documented*, a class or "".

    Public names are documented as the package's own, although they are defined in its
    modules. There docstrings say ``acebase_ipc.client.service.IPCClient.send``, and in the same
    module ``IPCClient.send``, where the reference has ``acebase_ipc.IPCClient.send``;
    and they name their neighbours in the module.
    """
    names = target.removeprefix("acebase_ipc.").split(".")
    if names[0] == "testing" and names[-1] in acebase_ipc.testing.__all__:
        yield f"acebase_ipc.testing.{names[-1]}"
    for public in (names[start:] for start in range(min(len(names), 3))):
        if public and public[0] in acebase_ipc.__all__:
            yield ".".join(("acebase_ipc", *public))
    owner = documented.partition(".")[0]
    if owner in acebase_ipc.__all__:
        yield f"{getattr(acebase_ipc, owner).__module__}.{target}"


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Resolve what Sphinx cannot."""
    if node["refdomain"] != "py":
        return None
    resolve_xref = env.domains.python_domain.resolve_xref
    document, kind, target = node["refdoc"], node["reftype"], node["reftarget"]
    for name in full_names(target, node.get("py:class") or ""):
        found = resolve_xref(env, document, app.builder, kind, name, node, content)
        if found is not None:
            return found
    return None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_transform(LocalLinks)
    app.connect("missing-reference", resolve)
