"""The JavaScript that the documents show is JavaScript, whether or not other tests run it."""

from __future__ import annotations

import json
import subprocess

from tests.acebase.cluster import node
from tests.documents import DOCS, PROJECT, README, blocks

CHECK = """
const vm = require('node:vm');
const parses = (text) => {
    try { new vm.Script(text); return ''; } catch (error) { return error.message; }
};
const wrong = JSON.parse(require('node:fs').readFileSync(0, 'utf8')).map(([name, text]) => [
    name, text,
    // A program, or statements of an async function, or properties of an object.
    [text, `async () => {${text}}`, `({${text}})`].map(parses),
]).filter(([, , errors]) => errors.every(Boolean));
console.info(JSON.stringify(wrong));
"""


def test_the_snippets_in_javascript_can_be_parsed() -> None:
    snippets = [
        (path.name, each.text)
        for path in (README, DOCS / "nodejs.rst", DOCS / "pm2.rst", DOCS / "client.rst")
        for each in blocks(path)
        if each.language == "javascript"
    ]
    assert {name for name, _ in snippets} == {"README.rst", "nodejs.rst", "pm2.rst", "client.rst"}
    done = subprocess.run(
        [node(), "-e", CHECK],
        cwd=PROJECT,
        input=json.dumps(snippets),
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(done.stdout) == []
