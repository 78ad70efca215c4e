"""Pages of two languages: NAME.md is English, NAME.zh-CN.md beside it Chinese."""

from collections.abc import Collection

from docs_site.pages import rendered_path

CHINESE = ".zh-CN.md"


def front_matter(name: str, names: Collection[str]) -> str:
    """What docs_site/theme reads of a page: its language and where its versions are; "" if it has no second version.

    Args:
        name: of the page, within docs/.
        names: of all pages.
    """
    is_chinese = name.endswith(CHINESE)
    english = name.removesuffix(CHINESE) + ".md" if is_chinese else name
    chinese = english.removesuffix(".md") + CHINESE
    if not {english, chinese} <= set(names):
        return ""
    language = "zh" if is_chinese else "en"
    return f"---\nlanguage: {language}\nenglish: {rendered_path(english)}\nchinese: {rendered_path(chinese)}\n---\n\n"
