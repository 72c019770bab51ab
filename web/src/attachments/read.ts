/** Files to text, in the browser: text and code by what they hold, whatever they are called, and the text of PDFs. */

import type { Attachment } from "../api/types";
import { decode } from "./decode";

const MEGABYTE = 2 ** 20;
const LARGEST = 10 * MEGABYTE;
const LARGEST_PDF = 50 * MEGABYTE;

/** Readers of PDF look for its mark in so many bytes. */
const PDF_HEADER = 1024;

export type Reason = "notText" | "noText" | "tooLarge" | "unreadable";

/** A file that cannot be attached. limit: the largest size, in words; empty for other reasons. */
export class AttachmentError extends Error {
  readonly reason: Reason;
  readonly limit: string;

  constructor(reason: Reason, limit = "") {
    super(reason);
    this.name = "AttachmentError";
    this.reason = reason;
    this.limit = limit;
  }
}

/** The text of a file. Throws AttachmentError. */
export async function readAttachment(file: File): Promise<Attachment> {
  const isPdf = latin1(await bytesOf(file.slice(0, PDF_HEADER))).includes("%PDF-");
  const largest = isPdf ? LARGEST_PDF : LARGEST;
  if (file.size > largest) throw new AttachmentError("tooLarge", `${largest / MEGABYTE} MB`);
  const bytes = await bytesOf(file);
  const text = isPdf ? await pdfText(bytes) : decode(bytes);
  if (text === null) throw new AttachmentError("notText");
  if (!text.trim()) throw new AttachmentError("noText");
  return { name: file.name, text };
}

async function bytesOf(blob: Blob): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return new Uint8Array(await blob.arrayBuffer());
  } catch {
    // The file was moved, or may not be read.
    throw new AttachmentError("unreadable");
  }
}

const latin1 = (bytes: Uint8Array) => new TextDecoder("latin1").decode(bytes);

async function pdfText(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const { textOf } = await import("./pdf");
  try {
    return await textOf(bytes);
  } catch {
    throw new AttachmentError("unreadable");
  }
}
