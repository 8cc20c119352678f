// What the theme leaves out for those who read with a keyboard or a screen reader.
function mend() {
  for (const box of document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap, .md-typeset__table")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; // else its hidden part cannot be reached
  }
  document.querySelectorAll(".md-code__nav").forEach((bar, n) => bar.setAttribute("aria-label", `Code block ${n + 1}`));
  for (const nav of document.querySelectorAll("nav[aria-labelledby]")) {
    if (document.getElementById(nav.getAttribute("aria-labelledby")).textContent.trim()) continue;
    nav.removeAttribute("aria-labelledby");
    nav.setAttribute("aria-label", nav.querySelector(".md-nav__title").textContent.trim());
  }
}

new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
addEventListener("resize", mend);
mend();
