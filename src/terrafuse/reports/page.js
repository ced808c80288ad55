// Fills the comparison of two pictures from those already on the page; without it the page is whole.
for (const box of document.querySelectorAll(".compare")) {
  const pictures = [...document.querySelectorAll(`#${box.dataset.pictures} figure`)];
  const sources = pictures.map((figure) => figure.querySelector("img").src);
  const view = box.querySelector(".view");
  for (const [name, at] of [["under", box.dataset.under], ["over", box.dataset.over]]) {
    const select = box.querySelector(`select.${name}`);
    const image = view.querySelector(`img.${name}`);
    pictures.forEach((figure, i) => select.add(new Option(figure.dataset.title, i)));
    select.addEventListener("change", () => { image.src = sources[select.value]; image.alt = select.selectedOptions[0].text; });
    select.value = at;
    select.dispatchEvent(new Event("change"));
  }
  view.querySelector("input").addEventListener("input", (event) => view.style.setProperty("--x", `${event.target.value}%`));
  box.hidden = false;
}
