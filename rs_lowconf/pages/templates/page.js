const form = document.getElementById("filter");
const cards = [...document.querySelectorAll("article")];
function choose() {
  const wanted = [...new FormData(form)].filter(([, value]) => value !== "");
  let shown = 0;
  for (const card of cards) {
    card.hidden = !wanted.every(([name, value]) => card.dataset[name] === value);
    shown += card.hidden ? 0 : 1;
  }
  document.getElementById("count").textContent = `${shown} of ${cards.length} samples`;
}
form.addEventListener("change", choose);
form.addEventListener("submit", (event) => event.preventDefault());
// A link to a sample that is filtered away shows it again.
addEventListener("hashchange", () => {
  const card = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (card && card.hidden) { form.reset(); choose(); card.scrollIntoView(); }
});
choose(); // A browser keeps choices when a page is loaded again.
