"use strict";

document.getElementById("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify(Object.fromEntries(new FormData(event.target)));
  const alert = document.getElementById("alert");
  alert.textContent = "";
  try {
    const response = await fetch("api/sign-in", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (response.ok) location.assign(".");
    else alert.textContent = (await response.json()).error;
  } catch {
    alert.textContent = "The server does not answer. Try again in a moment.";
  }
});
