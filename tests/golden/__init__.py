"""What each release wrote, which the next one reads: RELEASE.tar.xz, of one small world.

python -m tests.golden.write    # of the release that is checked out, once, when it is released
"""
