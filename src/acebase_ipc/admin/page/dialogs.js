// Dialogs: the token, the confirmation of a kick, the list of shortcuts.

import { h, setText } from "./dom.js";
import { plain } from "./format.js";
import { hasToken, post, setToken } from "./live.js";

const SHORTCUTS = "acebase-ipc-shortcuts";

/** Shows a dialog until it is closed; the focus then returns to where it was. */
function show(title, ...children) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, heading, ...children);
  const origin = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (origin?.isConnected) origin.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Asks for the token; the promise is fulfilled when one was given. */
export function askToken() {
  return new Promise((resolve) => {
    const field = h("input", {
      type: "password",
      id: "token",
      autocomplete: "off",
      required: true,
    });
    const form = h(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          setToken(field.value.trim());
          dialog.close();
          resolve();
        },
      },
      hasToken() ? h("p", { class: "error", role: "alert" }, "This token is not accepted.") : null,
      h("label", { for: "token" }, "Token of the admin endpoint"),
      field,
      h("p", { class: "hint" }, "It is kept until this tab is closed."),
      h("div", { class: "buttons" }, h("button", { class: "primary" }, "Continue")),
    );
    const dialog = show("This page is protected", form);
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    field.focus();
  });
}

/**
 * Asks whether to disconnect a peer, and does.
 * @param {function} done called with a sentence when it is disconnected.
 */
export function confirmKick(database, peer, done) {
  const error = h("p", { class: "error", role: "alert" });
  const ends = h("input", { type: "checkbox", id: "end-process" });
  const submit = h("button", { class: "danger" }, "Disconnect");
  const form = h(
    "form",
    {
      onsubmit: async (event) => {
        event.preventDefault();
        submit.disabled = true;
        try {
          await post(
            `databases/${encodeURIComponent(database)}/peers/${encodeURIComponent(peer.id)}/kick`,
            { end_process: ends.checked },
          );
          dialog.close();
          done(`${plain(peer.id)} is disconnected.`);
        } catch (refused) {
          setText(error, `It was not disconnected: ${refused.message}`);
          submit.disabled = false;
        }
      },
    },
    h("p", {}, h("b", { class: "name" }, plain(peer.id)), " of ", h("b", { class: "name" }, plain(database))),
    peer.is_master
      ? h("p", { class: "warning" }, "This is the lock master: without it no worker can write.")
      : null,
    h("p", {}, "Its connection is closed. A client connects again by itself."),
    h(
      "label",
      { class: "check" },
      ends,
      h("span", {}, "End its process: its next connection is refused, which ends an AceBase process."),
    ),
    error,
    h(
      "div",
      { class: "buttons" },
      h("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Cancel"),
      submit,
    ),
  );
  const dialog = show("Disconnect this peer?", form);
}

/** Returns whether single keys are shortcuts. */
export function hasShortcuts() {
  return localStorage.getItem(SHORTCUTS) !== "off";
}

/** Shows the shortcuts, given as [key, what it does] pairs. */
export function showShortcuts(list) {
  if (document.querySelector("dialog")) return;
  const check = h("input", {
    type: "checkbox",
    checked: hasShortcuts(),
    onchange: () => localStorage.setItem(SHORTCUTS, check.checked ? "on" : "off"),
  });
  const dialog = show(
    "Keyboard shortcuts",
    h(
      "dl",
      { class: "keys" },
      ...list.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what))),
    ),
    h("label", { class: "check" }, check, h("span", {}, "Single keys are shortcuts")),
    h(
      "div",
      { class: "buttons" },
      h("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Close"),
    ),
  );
}
