"use strict";
// The page is whole without this: it shows the figures of marks, filters by class, and opens all folds for print.
const tip = document.getElementById("tip");
const show = (event) => {
  const mark = event.target.closest?.("[data-tip]");
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.dataset.tip;
  const box = mark.getBoundingClientRect();
  const left = box.left + box.width / 2 - tip.offsetWidth / 2;
  tip.style.left = `${Math.max(8, Math.min(left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${box.top > 60 ? box.top - tip.offsetHeight - 8 : box.bottom + 8}px`;
};
for (const name of ["pointerover", "click"]) document.addEventListener(name, show);
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

const filter = document.getElementById("class-filter");
if (filter) {
  filter.closest("label").hidden = false;
  filter.addEventListener("change", () => {
    for (const node of document.querySelectorAll("[data-classes]"))
      node.hidden = filter.value !== "" && !node.dataset.classes.split(" ").includes(filter.value);
  });
  // A filter must not hide where a link leads.
  addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (!target?.hidden) return;
    filter.value = "";
    filter.dispatchEvent(new Event("change"));
    target.scrollIntoView();
  });
}

addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
