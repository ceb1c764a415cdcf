import { mount } from 'svelte';
import './app.css';
import App from './App.svelte';
import { i18n } from './i18n/i18n.svelte';
import { installRouter } from './lib/router.svelte';
import { session } from './lib/session.svelte';

installRouter();
void Promise.all([i18n.boot(), session.boot()]).then(() => {
  mount(App, { target: document.getElementById('app')! });
});
