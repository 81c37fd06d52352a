// An OpenID Connect provider with the addresses of a Keycloak realm, and a browser that logs in at it.
//
// Usage: node openid.mjs FOLDER-OF-MODULES
// Prints "provider URL" and "browser URL". The browser's address takes ?user=&client=&nonce=&state= and answers with what
// the provider sent back to the page: {code, state}. The realms "forged", "unsigned" and "promoted" are the same
// provider behind somebody who changes its tokens: the ID token of another client, one with a broken signature, an access
// token with more roles.

import http from 'node:http'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const modules = process.argv[2]
const entry = path.join(modules, 'oidc-provider/lib/index.js')
const { Provider } = await import(pathToFileURL(entry).href)

const REALM = '/realms/realm'
const BASE = `${REALM}/protocol/openid-connect`
const PAGE = 'http://localhost:9000'

const people = {
  jane: { email: 'jane@hie.org', given_name: 'Jane', family_name: 'Doe', preferred_username: 'jane', roles: ['operator', 'labs'] },
  joe: { preferred_username: 'joe', roles: [] }
}

const listen = server => new Promise(resolve => server.listen(0, '127.0.0.1', () => resolve(server.address().port)))

const server = http.createServer()
const port = await listen(server)
const origin = `http://127.0.0.1:${port}`

const client = (id, secret) => ({
  client_id: id,
  client_secret: secret,
  redirect_uris: [PAGE],
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
  token_endpoint_auth_method: 'client_secret_post',
  require_auth_time: true
})

const provider = new Provider(`${origin}${REALM}`, {
  clients: [client('openhim-oauth', 'tell-nobody'), client('another-app', 'tell-nobody-else')],
  routes: {
    authorization: `${BASE}/auth`,
    token: `${BASE}/token`,
    jwks: `${BASE}/certs`,
    userinfo: `${BASE}/userinfo`,
    end_session: `${BASE}/logout`
  },
  claims: { openid: ['sub'], email: ['email'], profile: ['given_name', 'family_name', 'preferred_username'] },
  conformIdTokenClaims: false,
  pkce: { required: () => false },
  async findAccount (context, id) {
    const person = people[id]
    return person && { accountId: id, claims: async () => ({ sub: id, ...person }) }
  },
  async extraTokenClaims (context, token) {
    const roles = people[token.accountId]?.roles ?? []
    return { resource_access: { [token.clientId]: { roles } } }
  },
  features: {
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => `${origin}/api`,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({ scope: 'openid email profile', accessTokenFormat: 'jwt' })
    }
  }
})
const answer = provider.callback()

async function read (request) {
  const parts = []
  for await (const part of request) parts.push(part)
  return Buffer.concat(parts)
}

const post = (address, fields) => fetch(address, { method: 'POST', body: new URLSearchParams(fields) })

// What the token endpoint says, changed by somebody in between.
async function forge (request, response, realm) {
  const form = new URLSearchParams((await read(request)).toString())
  const tokens = await (await post(`${origin}${BASE}/token`, form)).json()
  if (realm === 'forged') {
    const code = await logIn('jane', 'another-app', 'n', 's')
    const other = await post(`${origin}${BASE}/token`, {
      grant_type: 'authorization_code', redirect_uri: PAGE, client_id: 'another-app', client_secret: 'tell-nobody-else', code: code.code
    })
    Object.assign(tokens, await other.json())
  } else if (realm === 'unsigned') {
    const [head, claims] = tokens.id_token.split('.')
    tokens.id_token = `${head}.${claims}.${Buffer.alloc(256, 7).toString('base64url')}`
  } else {
    const claims = Buffer.from(JSON.stringify({ sub: 'jane', resource_access: { 'openhim-oauth': { roles: ['admin'] } } }))
    tokens.access_token = `e30.${claims.toString('base64url')}.e30`
  }
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify(tokens))
}

server.on('request', (request, response) => {
  const [, realm] = /^\/realms\/(forged|unsigned|promoted)\/protocol\/openid-connect\/token$/.exec(request.url) ?? []
  if (realm) return forge(request, response, realm)
  request.url = request.url.replace(/^\/realms\/(forged|unsigned|promoted)\//, `${REALM}/`)
  answer(request, response)
})

// Follows the provider's pages as a browser does, until it is sent back to the console.
async function logIn (user, clientId, nonce, state) {
  const cookies = new Map()
  const begin = new URL(`${origin}${BASE}/auth`)
  begin.search = new URLSearchParams({
    client_id: clientId, redirect_uri: PAGE, response_type: 'code', scope: 'openid email profile', nonce, state
  })
  let next = { url: begin.href }
  for (let steps = 0; steps < 20; steps++) {
    const headers = { cookie: [...cookies].map(pair => pair.join('=')).join('; ') }
    const given = await fetch(next.url, { method: next.form ? 'POST' : 'GET', body: next.form, headers, redirect: 'manual' })
    for (const cookie of given.headers.getSetCookie()) {
      const [name, ...value] = cookie.split(';')[0].split('=')
      cookies.set(name, value.join('='))
    }
    const location = given.headers.get('location')
    if (location?.startsWith(PAGE)) return Object.fromEntries(new URL(location).searchParams)
    if (location) {
      next = { url: new URL(location, next.url).href }
      continue
    }
    const page = await given.text()
    const action = /<form[^>]*action="([^"]+)"/.exec(page)?.[1]
    if (!action) throw new Error(`no form in ${page}`)
    const prompt = /name="prompt" value="([^"]+)"/.exec(page)[1]
    next = { url: new URL(action, next.url).href, form: new URLSearchParams({ prompt, login: user, password: 'any' }) }
  }
  throw new Error('the login did not end')
}

const browser = http.createServer(async (request, response) => {
  const asked = new URL(request.url, 'http://browser').searchParams
  try {
    const sent = await logIn(asked.get('user'), asked.get('client') ?? 'openhim-oauth', asked.get('nonce'), asked.get('state'))
    response.end(JSON.stringify(sent))
  } catch (error) {
    response.statusCode = 500
    response.end(String(error.stack))
  }
})
console.log(`provider ${origin}`)
console.log(`browser http://127.0.0.1:${await listen(browser)}`)
