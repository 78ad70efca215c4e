"""What is documented runs: every block of commands and of Python of the documentation, as it is written.

A page is run in an empty folder, from top to bottom, with the wheel and its extras in an environment without the
sources.

**What is run.** Blocks of ```` ```sh ```` and ```` ```python ````. A block of sh is run by `bash -euo pipefail`, in the
folder and with the exported variables in which the block before ended. Blocks of Python share one process and its
names. A block of any language whose first line is a comment of a file's name alone (`# focal.py`, `# arms.yaml`) is
written to that file; one of Python is then also run, by itself. A block of text or console after a block of sh is what
that block prints.

**Services.** A command that begins with `corank serve` or `corank follow` stays in the foreground: it is started
beside, and the page goes on once it is ready. SIGTERM ends it at the end of the page, or, of the kind `serve`, when the
page starts another one; its exit status must be 0. One page at a time has a service, since pages name its port. curl
ends with 22 where the service refuses: the page's home has a .curlrc.

**Output.** The lines shown must be printed in that order; others may be between them. Numbers, hashes and the width of
spaces may differ. A line `…` stands for any lines, and `…` at a line's end for its rest.

**Directives** are comments of HTML in the page's source, YAML, which the site does not show. (Indent by two: four
spaces are code in Markdown, and keep the page's first two paragraphs first.) One for the page, all keys optional:

    <!-- page:
    extras: [train]            # installed beside the base; [train] by default; `none`: not even corank
    prepare: [shop, redis]     # what is there when the page begins: functions of prepared.py
    replace:                   # texts of blocks → what is run instead; {folder}, {redis}, {kafka}: see prepared.py
      STORE: lmdb:store
      corank simulate world: corank simulate world --requests 300 --candidates 40
    -->

and one directly before a block:

    <!-- block: {not run: needs a cluster, instead: tests/operations/test_x.py reads the manifests} -->
    <!-- block: {status: 3} -->              the block's last command ends with 3
    <!-- block: {before: touch x} -->        commands that are run before the block; the page does not show them
    <!-- block: {prepare: [shop_bundle]} --> prepared before the block rather than the page
    <!-- block: {replace: {…}} -->           as the page's, and before them
    <!-- block: {file: shop.yaml} -->        the block is written to a file
    <!-- block: {ready: COMMAND} -->         the block's services are ready when COMMAND, tried again, ends with 0
    <!-- block: {until: COMMAND} -->         the whole block is in the foreground, until COMMAND ends with 0: SIGTERM
    <!-- block: {shows: nothing} -->         a block of text that is not what the block before printed
    <!-- block: {unordered: true} -->        lines of text whose order depends on figures

`not run` needs `instead`: what is checked in place of the block, best the path of a test, which must exist. A block
that is neither run nor marked is a failure. A Chinese page whose blocks equal those of its English page is not run
again, and needs no directives.

`pip install` is pip, without an index: it finds the wheel, and stand-ins for the wheels of what this environment has
(wheelhouse.py). `prepare: [checkout]` makes the folder a checkout of the sources, for `pip install .`; a page that
installs has an environment of its own.

    pytest tests/documented -k five-minutes        # one page; a failure prints the block and the end of its output
"""
