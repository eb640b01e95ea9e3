// A button beside each sample of code that copies it. The page is whole without.

for (const figure of document.querySelectorAll(".docs figure")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(figure.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  // Browsers give the clipboard to pages over HTTPS and on this machine alone.
  if (navigator.clipboard) figure.querySelector("figcaption").append(button);
}
