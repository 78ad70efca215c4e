// Light or dark colours: those of the system, or chosen for this browser.

const SCHEME = "corank.scheme";

/** Applies a choice, "light" or "dark", or the system's if it is empty. */
function applyScheme(choice) {
  if (choice) document.documentElement.dataset.scheme = choice;
  else delete document.documentElement.dataset.scheme;
}

function startScheme() {
  const select = byId("scheme");
  try {
    select.value = localStorage.getItem(SCHEME) ?? "";
  } catch {
    // the browser stores nothing
  }
  if (select.selectedIndex < 0) select.value = "";
  applyScheme(select.value);
  select.addEventListener("change", () => {
    applyScheme(select.value);
    page.redraw();
    try {
      localStorage.setItem(SCHEME, select.value);
    } catch {
      // full, or the browser stores nothing
    }
  });
}
