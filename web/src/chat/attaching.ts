/** The files that are to go with the next question: read here in the browser, so that the server gets their text. */

import { useCallback, useMemo, useState } from "react";
import type { Attachment } from "../api/types";
import { AttachmentError, readAttachment } from "../attachments/read";
import { texts } from "../i18n";
import { showToast } from "../toast";

export const MOST_FILES = 20; // of one message, as the server has it

export interface Reading {
  key: number;
  name: string;
  /** null: it is being read. */
  attachment: Attachment | null;
}

export interface Attaching {
  files: readonly Reading[];
  /** None is being read. */
  ready: boolean;
  add: (files: Iterable<File>) => void;
  remove: (key: number) => void;
  /** Puts back what was attached before. */
  restore: (attachments: readonly Attachment[]) => void;
  /** What is attached, which is none any more. */
  take: () => Attachment[];
}

let keys = 0;

export function useAttaching(): Attaching {
  const [files, setFiles] = useState<readonly Reading[]>([]);

  const add = useCallback((added: Iterable<File>) => {
    for (const file of added) {
      const key = ++keys;
      setFiles((before) => {
        if (before.length < MOST_FILES) return [...before, { key, name: file.name, attachment: null }];
        showToast(texts().attachmentFailed(file.name, texts().attachmentTooMany(MOST_FILES)));
        return before;
      });
      readAttachment(file).then(
        (attachment) => setFiles((now) => now.map((each) => (each.key === key ? { ...each, attachment } : each))),
        (error) => {
          setFiles((now) => now.filter((each) => each.key !== key));
          showToast(texts().attachmentFailed(file.name, reason(error)));
        },
      );
    }
  }, []);

  const remove = useCallback((key: number) => setFiles((now) => now.filter((each) => each.key !== key)), []);

  const restore = useCallback((attachments: readonly Attachment[]) => {
    if (attachments.length === 0) return;
    const restored = attachments.map((attachment) => ({ key: ++keys, name: attachment.name, attachment }));
    setFiles((before) => [...restored, ...before]);
  }, []);

  const ready = files.every((each) => each.attachment !== null);
  return useMemo(
    () => ({
      files,
      ready,
      add,
      remove,
      restore,
      take: () => {
        setFiles([]);
        return files.flatMap((each) => (each.attachment ? [each.attachment] : []));
      },
    }),
    [files, ready, add, remove, restore],
  );
}

function reason(error: unknown): string {
  const t = texts();
  if (!(error instanceof AttachmentError)) return t.attachmentUnreadable;
  switch (error.reason) {
    case "notText":
      return t.attachmentNotText;
    case "noText":
      return t.attachmentNoText;
    case "tooLarge":
      return t.attachmentTooLarge(error.limit);
    case "unreadable":
      return t.attachmentUnreadable;
  }
}
