export function packageOf(id: string): string | null;
export function licenceTexts(folders: string[]): string;
