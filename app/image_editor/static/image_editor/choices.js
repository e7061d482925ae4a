// The choices of a reader. The server knows both from cookies, so a page has its colours and its language from the start.

const theme = document.getElementById("theme");
const language = document.querySelector(".language");
const YEAR = 365 * 24 * 3600; // seconds

theme.addEventListener("change", () => {
  document.documentElement.dataset.theme = theme.value;
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `theme=${theme.value}; path=/; max-age=${YEAR}; samesite=lax${secure}`;
});

language.addEventListener("submit", () => {
  language.elements.next.value = location.pathname + location.hash; // the same view again
});
